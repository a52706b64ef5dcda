// Looks at one page after another in a frame of a phone's width, and posts what it found. PAGES and WIDTH come before.
const SAMPLE = 400, LEAST = 3;
const frame = document.createElement("iframe");
frame.style = `width:${WIDTH}px;height:844px;border:0`;
document.body.append(frame);
const brush = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
const known = new Map();

// [red, green, blue, opacity] of a CSS colour
function rgba(colour) {
  if (!known.has(colour)) {
    brush.clearRect(0, 0, 1, 1);
    brush.fillStyle = colour;
    brush.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = brush.getImageData(0, 0, 1, 1).data;
    known.set(colour, [r, g, b, a / 255]);
  }
  return known.get(colour);
}

const over = (top, below) => below.map((value, i) => (i < 3 ? top[3] * top[i] + (1 - top[3]) * value : 1));

function luminance(colour) {
  const [r, g, b] = colour.map((v) => ((v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

// The contrast ratio of WCAG between an element's text and what is below it; null on an image
function contrast(element, window) {
  const layers = [];
  let opacity = 1, paper = rgba("Canvas");
  for (let at = element; at; at = at.parentElement) {
    const style = window.getComputedStyle(at);
    opacity *= Number(style.opacity);
    if (style.backgroundImage !== "none") return null;
    layers.push(rgba(style.backgroundColor));
    if (layers.at(-1)[3] === 1) break;
  }
  for (const layer of layers.reverse()) paper = over(layer, paper);
  const [r, g, b, a] = rgba(window.getComputedStyle(element).color);
  const [dark, light] = [luminance(over([r, g, b, a * opacity], paper)), luminance(paper)].sort((x, y) => x - y);
  return (light + 0.05) / (dark + 0.05);
}

function texts(document) {
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), found = new Set();
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    const seen = element.checkVisibility({ opacityProperty: true, visibilityProperty: true });
    if (walker.currentNode.data.trim() && seen && element.getClientRects().length) found.add(element);
  }
  const all = [...found], step = Math.max(1, Math.floor(all.length / SAMPLE));
  return all.filter((_, i) => i % step === 0);
}

const named = (element) => `${element.tagName.toLowerCase()}.${element.className} ${element.textContent.trim().slice(0, 40)}`;

// What makes a page wider than the screen: what reaches beyond it and is in no box that scrolls by itself
function wide(document, window) {
  if (document.documentElement.scrollWidth <= WIDTH) return [];
  const scrolls = (element) => element && element !== document.body &&
    (window.getComputedStyle(element).overflowX !== "visible" || scrolls(element.parentElement));
  const beyond = [...document.body.querySelectorAll("*")].filter((e) => e.getBoundingClientRect().right > WIDTH + 1);
  return beyond.filter((e) => !scrolls(e)).slice(0, 3).map((e) => `${document.documentElement.scrollWidth} px: ${named(e)}`);
}

async function look(page) {
  await new Promise((loaded) => { frame.onload = loaded; frame.src = page; });
  await new Promise((settled) => setTimeout(settled, 100));
  const document = frame.contentDocument, window = frame.contentWindow;
  const parts = [...document.querySelectorAll("[href], [src]")].map((e) => [e.tagName, String(e.src || e.href)]);
  const faint = texts(document).map((e) => [contrast(e, window), e]).filter(([ratio]) => ratio !== null && ratio < LEAST);
  return {
    page,
    errors: window.errorsSeen,
    wide: wide(document, window),
    faint: faint.slice(0, 5).map(([ratio, e]) => `${ratio.toFixed(1)}: ${named(e)}`),
    parts,
    ids: [...document.querySelectorAll("[id], a[name]")].map((e) => e.id || e.name),
  };
}

(async () => {
  for (const page of PAGES) await fetch("/found", { method: "POST", body: JSON.stringify(await look(page)) });
  await fetch("/found", { method: "POST", body: "null" });
})();
