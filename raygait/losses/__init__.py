"""Losses. Each takes what a model returned and labels, and gives the loss with its statistics."""
