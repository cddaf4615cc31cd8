// nextflow run medsr.nf --cohort /data/cohort --results /data/results --parts 4 --options '--isotropic'
params.cohort = null   // absolute paths: each task has a folder of its own
params.results = null
params.parts = 4
params.options = ''

process PART {
    tag "${part} of ${params.parts}"
    cpus 4
    memory '16 GB'
    errorStrategy { task.exitStatus in [137, 143] ? 'retry' : 'finish' }
    maxRetries 2

    input:
    val part

    output:
    val part

    script:
    """
    medsr batch '${params.cohort}' --out '${params.results}' --shard ${part}/${params.parts} \\
        --threads ${task.cpus} --quiet ${params.options}
    """
}

workflow {
    PART(Channel.of(1..params.parts))
}
