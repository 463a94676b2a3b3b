"""Ways to start several processes as one run."""
