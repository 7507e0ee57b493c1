"""The forms in which the report shows targets; config.schema.FORMS lists them (docs/extending.md)."""
