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


for words, spec in asked_for(sys.argv[1:]).items():

    rule:
        name:
            words
        input:
            asked([spec]),
