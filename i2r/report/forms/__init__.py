"""The forms in which the report shows a target; config.schema.FORMS lists them (docs/extending.md)."""
