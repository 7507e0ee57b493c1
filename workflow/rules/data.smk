rule shapes_job:
    input:
        needs,
    output:
        manifest=f"{STORE}/manifest.json",
        index=f"{STORE}/index.json",
        images=directory(f"{STORE}/VOC"),
    log:
        LOG,
    wildcard_constraints:
        place="data",
        name="shapes",
    conda:
        "../../envs/i2r.yaml"
    threads: THREADS
    resources:
        mem_mb=4000,
        runtime=120,
    params:
        spec=SPEC,
    shell:
        "python -m i2r run data --spec {params.spec:q} 2>&1 | tee -i {log:q}"


rule data_job:
    input:
        needs,
    output:
        manifest=f"{STORE}/manifest.json",
        index=f"{STORE}/index.json",
    log:
        LOG,
    wildcard_constraints:
        place="data",
        name="voc",
    conda:
        "../../envs/i2r.yaml"
    threads: THREADS
    resources:
        mem_mb=4000,
        runtime=120,
    params:
        spec=SPEC,
    shell:
        "python -m i2r run data --spec {params.spec:q} 2>&1 | tee -i {log:q}"


rule lists_job:
    input:
        needs,
    output:
        manifest=f"{STORE}/manifest.json",
        lists=f"{STORE}/lists.json",
    log:
        LOG,
    wildcard_constraints:
        place="lists",
    conda:
        "../../envs/i2r.yaml"
    threads: THREADS
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        spec=SPEC,
    shell:
        "python -m i2r run lists --spec {params.spec:q} 2>&1 | tee -i {log:q}"


rule episodes_job:
    input:
        needs,
    output:
        manifest=f"{STORE}/manifest.json",
        episodes=f"{STORE}/episodes.json",
    log:
        LOG,
    wildcard_constraints:
        place="episodes",
    conda:
        "../../envs/i2r.yaml"
    threads: THREADS
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        spec=SPEC,
    shell:
        "python -m i2r run episodes --spec {params.spec:q} 2>&1 | tee -i {log:q}"
