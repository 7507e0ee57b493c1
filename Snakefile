"""I2R from data to report: `snakemake` makes everything, `snakemake train` a stage, `snakemake table1` a target."""

from snakemake.utils import min_version

min_version("9.0")


include: "workflow/rules/common.smk"


rule all:
    default_target: True
    input:
        asked(PLAN.of("all")),


include: "workflow/rules/targets.smk"
include: "workflow/rules/jobs.smk"


onstart:
    with as_workflow_errors():
        if REFUSED:
            raise WorkflowError("\n".join(REFUSED.values()))
        alone.sign()
        store.fill(PLAN.experiment)


onsuccess:
    show()


onerror:
    show()
    say_last(failures(PLAN))
