rule backbone_job:
    input:
        needs,
    output:
        manifest=f"{STORE}/manifest.json",
        weights=f"{STORE}/weights.safetensors",
        metrics=f"{STORE}/metrics.jsonl",
    log:
        LOG,
    wildcard_constraints:
        place="backbone",
    conda:
        "../../envs/i2r.yaml"
    threads: THREADS
    resources:
        gpu=GPU,
        mem_mb=4000,
        runtime=240,
    params:
        spec=SPEC,
    shell:
        "python -m i2r run backbone --spec {params.spec:q} 2>&1 | tee -i {log:q}"


rule base_learner_job:
    input:
        needs,
    output:
        manifest=f"{STORE}/manifest.json",
        weights=f"{STORE}/weights.safetensors",
        scores=f"{STORE}/scores.json",
        metrics=f"{STORE}/metrics.jsonl",
    log:
        LOG,
    wildcard_constraints:
        place="base_learner",
    conda:
        "../../envs/i2r.yaml"
    threads: THREADS
    resources:
        gpu=GPU,
        mem_mb=MEMORY,
        runtime=1440,
    params:
        spec=SPEC,
    shell:
        "python -m i2r run base_learner --spec {params.spec:q} 2>&1 | tee -i {log:q}"


rule cam_head_job:
    input:
        needs,
    output:
        manifest=f"{STORE}/manifest.json",
        weights=f"{STORE}/weights.safetensors",
        scores=f"{STORE}/scores.json",
        metrics=f"{STORE}/metrics.jsonl",
    log:
        LOG,
    wildcard_constraints:
        place="cam_head",
    conda:
        "../../envs/i2r.yaml"
    threads: THREADS
    resources:
        gpu=GPU,
        mem_mb=MEMORY,
        runtime=720,
    params:
        spec=SPEC,
    shell:
        "python -m i2r run cam_head --spec {params.spec:q} 2>&1 | tee -i {log:q}"


rule train_job:
    input:
        needs,
    output:
        manifest=f"{STORE}/manifest.json",
        weights=f"{STORE}/weights.safetensors",
        metrics=f"{STORE}/metrics.jsonl",
    log:
        LOG,
    wildcard_constraints:
        place="(ablate/)?train",
    conda:
        "../../envs/i2r.yaml"
    threads: THREADS
    resources:
        gpu=GPU,
        mem_mb=MEMORY,
        runtime=2880,
    params:
        spec=SPEC,
    shell:
        "python -m i2r run train --spec {params.spec:q} 2>&1 | tee -i {log:q}"
