# What the hidden lines of the documents have at hand; `check` reads it before a document's blocks. ROOT is the folder
# of the document, in which each machine has a folder of its own.

declare -A NODE_PID

# Says which line of the document failed: of the frames that are on the way, the one that is in a block. `check` has
# given the block's file the document's line numbers.
failed() {
  local i
  for ((i = 1; i < ${#BASH_SOURCE[@]}; i++)); do
    case ${BASH_SOURCE[i]} in
      */script/block-*)
        echo "FAILED $1:${BASH_LINENO[i - 1]}: $2"
        exit 1
        ;;
    esac
  done
  echo "FAILED $1: $2"
  exit 1
}

# From here on another machine: its folder, which is its HOME.
machine() {
  MACHINE=$1
  export HOME="$ROOT/$1"
  mkdir -p "$HOME"
  cd "$HOME"
}

# `join` goes on behind its block, as in a terminal of its own, once the node runs. TICKET and GENESIS stand for what
# `ticket` and `status` told: the variables of these names.
paceline() {
  local words=() word
  for word in "$@"; do
    case $word in
      TICKET) words+=("$TICKET") ;;
      GENESIS) words+=("$GENESIS") ;;
      *) words+=("$word") ;;
    esac
  done
  case ${words[0]} in
    join) join "${words[@]}" ;;
    *) command paceline "${words[@]}" ;;
  esac
}

join() {
  local log pid tries
  log="$ROOT/log-$MACHINE-$(date +%s%N)"
  case " $* " in *" --name "*) ;; *) set -- "$@" --name "$MACHINE" ;; esac
  setsid "$ROOT/bin/paceline" "$@" --plain </dev/null >"$log" 2>&1 &
  pid=$!
  NODE_PID[$MACHINE]=$pid
  echo "$pid" >>"$ROOT/pids"
  for tries in $(seq 300); do
    if grep -qs -e 'the page of this node' -e '"the page of this node' "$log"; then return 0; fi
    # A log file of its own: then the home tells.
    case " $* " in *" --log-file "*) [ "$tries" -lt 20 ] || return 0 ;; esac
    if ! kill -0 "$pid" 2>/dev/null; then
      cat "$log"
      wait "$pid"
      return
    fi
    sleep 0.1
  done
  cat "$log"
  echo "the node of $MACHINE does not come up"
  return 1
}

# What a person does with the terminal of a node: Ctrl-C.
stop_node() {
  local pid=${NODE_PID[${1:-$MACHINE}]}
  kill -INT "$pid" 2>/dev/null || true
  wait "$pid" || true
}

# Until so many rounds of this machine's run are trained.
wait_rounds() {
  local tries
  for tries in $(seq 600); do
    if [ "$(trained)" -ge "$1" ]; then return 0; fi
    sleep 0.1
  done
  command paceline status
  return 1
}

trained() {
  { command paceline --quiet status --format json 2>/dev/null || echo '"trained":0'; } |
    grep -o '"trained": *[0-9]*' | grep -o '[0-9]*$' | head -n 1
}

# Until the node of this machine ends by itself.
wait_end() {
  wait "${NODE_PID[${1:-$MACHINE}]}"
}

# From one machine to another, as `scp FILE... MACHINE:` does.
scp() {
  local to=${*: -1}
  mkdir -p "$ROOT/${to%%:*}"
  cp "${@:1:$#-1}" "$ROOT/${to%%:*}/"
}

# Two more machines with photos of their own, which wait for a third.
start_others() {
  local here=$MACHINE file=$PWD/$1 other seed=10
  for other in two three; do
    machine "$other"
    seed=$((seed + 1))
    make-photos photos 20 "$seed"
    paceline join "$file" --data photos
  done
  machine "$here"
}

# A home whose run is over: one node, generated pictures, two rounds.
finished_run() {
  paceline init "$1.toml"
  sed -i "s/^name = \"[^\"]*\"/name = \"$1\"/; s/^rounds = [0-9]*/rounds = 2/; s/^# min_nodes = [0-9]*/min_nodes = 1/
    s/^# samples = [0-9]*/samples = 300/" "$1.toml"
  paceline join "$1.toml" --exit-when-done
  wait_end
}
