"""Students side by side: names, a table, a plot of faithfulness against size."""
