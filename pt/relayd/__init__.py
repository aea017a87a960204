"""The relay server behind `pt relay`: who may use it, how circuits are joined, what it tells."""
