"""Editing: what a trained model does to data that are given: SDEdit, latents, and measurements of all kinds."""
