"""Public test tools: fake clock, simulator, pytest plugin."""
