"""What data sets must hold, checked before a run writes anything."""
