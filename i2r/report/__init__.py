"""Tables, figures and the first page, made from the files of finished jobs and nothing else."""
