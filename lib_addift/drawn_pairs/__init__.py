"""Pairs that the loaded model draws: from two prompts, from one pair, and from one picture and a prompt."""
