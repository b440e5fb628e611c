"""Is a circuit true? Knock-outs, resampling and tests on prompts that it was not found on."""
