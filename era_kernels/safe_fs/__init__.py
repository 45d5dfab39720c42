"""Opens, walks, copies, measures and removes trees of files that hostile code made."""
