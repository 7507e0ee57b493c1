"""The whole workflow, which stands in workflow/Snakefile, for `snakemake` in this folder."""


include: "workflow/Snakefile"


workflow.default_target = "all"  # Snakemake ignores the one of an included file
