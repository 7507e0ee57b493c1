"""Tables, figures and the page of the report, made only from the files of finished jobs."""
