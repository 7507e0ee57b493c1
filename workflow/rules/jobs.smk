"""One rule for each step of the registry (i2r/pipeline/steps.py); a job has its key as wildcard, and its spec."""

for depth, step in enumerate(STEPS.values()):

    rule:
        name:
            f"{step.name}_job"
        input:
            needs(step.name),
        output:
            manifest=f"results/store/{step.name}/{{key}}/manifest.json",
            files=[product(step, name) for name in step.products],
        log:
            f"results/logs/{step.name}/{{key}}.log",
        benchmark:
            f"results/benchmarks/{step.name}/{{key}}.tsv"
        # First the scores of what is trained, so that an interrupted run has some; then what much depends on.
        priority: len(STEPS) - (depth if depth <= list(STEPS).index("train") else 0)
        localrule: step.local
        conda:
            "../../envs/i2r.yaml"
        threads: 1 if step.network else THREADS * step.processes(RUNTIME)
        resources:
            network=int(step.network),
            gpu=gpus.needed(RUNTIME.device) * step.processes(RUNTIME) if step.torch else 0,
            cpus_per_task=cores(step),
            mem_mb=memory(step),
            runtime=step.minutes,
            attempt=lambda wildcards, attempt: attempt,
        params:
            spec=f"results/specs/{step.name}/{{key}}.json",
            step=step.name,
        # At its time limit Slurm sends SIGTERM to all of these: the job saves its state, and the others wait for it.
        shell:
            "trap : TERM; python -m i2r run {params.step} --spec {params.spec:q} --attempt {resources.attempt} 2>&1 "
            "| (trap '' INT TERM; exec tee {log:q}) >&2"
