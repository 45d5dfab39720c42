# Runs before the code of each run (BASH_ENV): brings back what the runs before it have left, and has
# this run leave the same at its end, however it ends. Records are separated by NUL.
unset BASH_ENV
era_kernel_state=$ERA_KERNEL_STATE
unset ERA_KERNEL_STATE

era_kernel_save() {
    mapfile -t era_kernel_names < <(compgen -v)
    for era_kernel_name in "${era_kernel_names[@]}"; do
        declare -p "$era_kernel_name" 2>/dev/null && printf '\0'
    done
    declare -f
    printf '\0cd %q\n\0' "$PWD"
    shopt -p
    set +o
    printf '\0'
}
trap 'era_kernel_save >"$era_kernel_state.new" 2>/dev/null' EXIT

. "$era_kernel_state.sh"
