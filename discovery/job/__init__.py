"""One run: model and prompts, a method at work, its circuit measured, all of it in a folder."""
