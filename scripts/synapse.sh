# Synapse, the server that most of the federation runs, for the tests and measurements that hold Hearth beside it;
# sourced. Needs packages.sh.

# Installs it in a virtual environment, unless it is there. Nothing of it is part of Hearth.
need_synapse() {
    local venv=$1
    "$venv/bin/python" -c 'import synapse, psycopg2' 2>/dev/null && return 0
    say "Installing Synapse in $venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check -r tests/bench/requirements.txt
}
