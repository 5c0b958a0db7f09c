#!/bin/bash
# Submit the whole way to results/ from the project's folder, the raw files being there (`umemma download`):
#
#   examples/slurm/submit.sh            preprocess, pretrain, finetune, evaluate
#   examples/slurm/submit.sh compare    preprocess, then the comparison
#
# PARTS=50 examples/slurm/submit.sh packs the shards in 50 tasks instead of 8.
set -euo pipefail
shopt -s inherit_errexit
folder=$(cd "$(dirname "$0")" && pwd)
export UMEMMA_SLURM=$folder
mkdir -p logs # which Slurm does not make

# submit AFTER WORD...: submit a job that starts after others, "" for none; print its number.
submit() {
    local after=$1 options=(--parsable)
    shift
    if [ -n "$after" ]; then
        options+=("--dependency=$after" --kill-on-invalid-dep=yes)
    fi
    sbatch "${options[@]}" "$@" | cut -d ';' -f 1
}

# array KIND: print the option for as many tasks as there are, --array=0-1 for two.
array() {
    local tasks
    tasks=$(python "$folder/tasks.py" "$1" | wc -l)
    echo "--array=0-$((tasks - 1))"
}

if [ "${1:-}" = compare ]; then
    # Read params.yaml before anything is submitted.
    unimodal_array=$(array compare-unimodal)
    preset_array=$(array compare)
else
    modality_array=$(array pretrain)
fi

parts=$(submit "" "--array=0-$((${PARTS:-8} - 1))" "$folder/preprocess.sbatch")
# afterany, as tasks end with status 1 while parts of others are missing; this one packs what is missing.
shards=$(submit "afterany:$parts" --array=0 "$folder/preprocess.sbatch")

if [ "${1:-}" = compare ]; then
    models=$(submit "afterok:$shards" "$unimodal_array" "$folder/compare.sbatch" compare-unimodal)
    presets=$(submit "afterok:$models" "$preset_array" "$folder/compare.sbatch" compare)
    last=$(submit "afterok:$presets" --array=0 "$folder/compare.sbatch" table)
else
    models=$(submit "afterok:$shards" "$modality_array" "$folder/pretrain.sbatch")
    ensemble=$(submit "afterok:$models" "$folder/finetune.sbatch")
    last=$(submit "afterok:$ensemble" "$folder/evaluate.sbatch")
fi
echo "The results are there when job $last has ended."
