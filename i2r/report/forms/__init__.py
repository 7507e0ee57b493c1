"""The forms in which the report shows targets; config.experiment.FORMS lists them (docs/extending.md)."""
