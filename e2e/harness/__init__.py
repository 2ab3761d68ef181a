"""Real `paceline` processes on a network of their own, and what can go wrong with them. `e2e/chaos` is the way in."""
