"""Questions made of captions: the file of a job, and the job."""
