"""Pure numerics on numpy and scipy.special: profiles, distances, tests, estimators. No I/O, no clock, no
global randomness.
"""
