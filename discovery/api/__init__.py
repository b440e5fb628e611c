"""The Python interface: `import discovery as cd`. The same runs as the commands make."""
