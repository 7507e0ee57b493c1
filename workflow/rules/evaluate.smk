rule evaluate_job:
    input:
        needs,
    output:
        manifest=f"{STORE}/manifest.json",
        scores=f"{STORE}/scores.json",
        episodes=f"{STORE}/episodes.csv",
        pictures=f"{STORE}/pictures.npz",
    log:
        LOG,
    wildcard_constraints:
        place="(ablate/)?evaluate",
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
        "python -m i2r run evaluate --spec {params.spec:q} 2>&1 | tee -i {log:q}"


rule baselines_job:
    input:
        needs,
    output:
        manifest=f"{STORE}/manifest.json",
        scores=f"{STORE}/scores.json",
        episodes=f"{STORE}/episodes.csv",
        pictures=f"{STORE}/pictures.npz",
    log:
        LOG,
    wildcard_constraints:
        place="baselines",
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
        "python -m i2r run baselines --spec {params.spec:q} 2>&1 | tee -i {log:q}"
