"""A bilingual corpus that writes itself: grammar and lexicon, nine tasks, stories, documents in two latent modes."""
