"""Coding: rate and distortion along the reverse process, and a codec that is lossy at every prefix and exact at the end."""
