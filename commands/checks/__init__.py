"""What must be there before anything starts: paths, the stage, the settings of a trainer."""
