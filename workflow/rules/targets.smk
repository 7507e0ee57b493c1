"""What one can ask for: a stage, a target of the params, or one result by its readable folder."""

for stage in STAGES:

    rule:
        name:
            stage
        input:
            files(PLAN.of(stage)),


for target in PLAN.params.values.targets:

    rule:
        name:
            target
        input:
            files(PLAN.target(target)),


for asked, spec in asked_for(sys.argv[1:]).items():

    rule:
        name:
            asked
        input:
            files([spec]),
