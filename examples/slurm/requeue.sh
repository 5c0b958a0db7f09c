# shellcheck shell=bash
# Read by the batch scripts with `source`: what a job does when its time is nearly up.
#
# Slurm sends SIGTERM to the batch script 120 s before the limit (#SBATCH --signal=B:TERM@120). The script
# hands it on to the processes of the step, which save a checkpoint and end, and puts the job back into the
# queue. The job then runs the same command again, and umemma resumes.
#
# `scancel --signal` reaches the processes. `kill` would only reach srun, which then ends them with SIGKILL.

# The name of this job. The number of an array alone would stand for all of its tasks.
job=$SLURM_JOB_ID
if [ -n "${SLURM_ARRAY_TASK_ID:-}" ]; then
    job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
fi

# run_or_requeue SIGNAL COMMAND...: run the command; SIGNAL is the one that it stops at in good order.
run_or_requeue() {
    local signal=$1 stopped="" status=0
    shift
    trap 'stopped=yes; scancel --signal="$signal" "$job"' TERM
    "$@" &
    wait $! || status=$?
    if [ -n "$stopped" ]; then # then that was the end of the wait and not that of the command
        trap '' TERM
        status=0
        wait $! || status=$?
    fi
    # 75 is "stopped, run me again" of umemma. torchrun and dvc end with another status, so `stopped` counts too.
    if [ "$status" -eq 75 ] || { [ -n "$stopped" ] && [ "$status" -ne 0 ]; }; then
        echo "stopped with status $status; back into the queue"
        scontrol requeue "$job"
    fi
    return "$status"
}
