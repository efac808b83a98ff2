"""Calibration: a denoiser's own trajectories decide where it is asked and how its answers are added up."""
