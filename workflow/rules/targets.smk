"""What can be requested: a stage, a target of the params, or one result by its readable folder."""


# Gives Snakemake something to run if only the view is outdated; `onsuccess` updates the view and removes this file.
rule view:
    output:
        touch(VIEW),


for stage in STAGES:

    rule:
        name:
            stage
        input:
            asked(PLAN.of(stage)),


for target in (*PLAN.params.values.targets, "paper"):

    rule:
        name:
            target
        input:
            asked(PLAN.target(target)),


with as_workflow_errors():
    for word in sys.argv[1:]:
        if word in PLAN.params.impossible and PLAN.needed(word) is None:
            raise JobError(f"{word}: {PLAN.why_none(word)}")


for words, spec in asked_for(sys.argv[1:]).items():

    rule:
        name:
            words
        input:
            asked([spec]),
