"""Everything that knows Linux: forking, signals, exit statuses, walls."""
