"""What people are told: progress, tables, figures, pages."""
