"""What people look at: the progress of a run, its summary, a dataset's statistics, one page's facts."""
