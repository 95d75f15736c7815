"""What can't be tried on one machine: runs where variables name what it needs, and is reported as NOT RUN elsewhere."""
