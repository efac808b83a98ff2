"""How good is a model: distances between samples and data with error bars and noise floors, pictures and reports.

Every distance is between two sets of *features*, rows of an (n, d) tensor; `features` makes them from data of any
shape. Nothing here is needed for training or sampling.
"""
