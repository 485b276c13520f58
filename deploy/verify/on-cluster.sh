#!/usr/bin/env bash
# Checks an installation on a cluster of your own, after `kubectl apply -k` of an overlay and the precompute Job:
#
#   deploy/verify/on-cluster.sh [PHOTO]
#
# Four questions, one line each: are the pods ready and did none restart, does each answer its health names, does each
# model service have the GPU that its manifest claims, does the gateway answer. With a photograph, one COMBINED
# analysis goes through a port-forward as the last. Reads the cluster and changes nothing; ends with 1 at the first
# fault. Needs kubectl, and for the analysis the `mondrian` command.
set -euo pipefail

namespace=${NAMESPACE:-mondrian}
advisor=${ADVISOR:-ansel}
wait_for=${WAIT:-15m}
local_port=${LOCAL_PORT:-50050}
photo=${1:-}

fault() { echo "fault: $*" >&2; exit 1; }
ok() { echo "ok: $*"; }
in_namespace() { kubectl --namespace "$namespace" "$@"; }

command -v kubectl >/dev/null || fault "kubectl is not installed"
if [ -n "$photo" ]; then
  [ -r "$photo" ] || fault "$photo cannot be read"
  command -v mondrian >/dev/null || fault "the mondrian command is not installed: pip install '.[cli]'"
fi
in_namespace get deployment gateway >/dev/null || fault "there is no gateway in namespace $namespace: apply an overlay first"

declare -A port=([gateway]=50050 [embedder]=50051 [critic]=50052 [scorer]=50053)
declare -A health=(
  [gateway]=mondrian.gateway.v1.GatewayService
  [embedder]=mondrian.embedder.v1.EmbedderService
  [critic]=mondrian.critic.v1.CriticService
  [scorer]=mondrian.scorer.v1.ScorerService
)
services=(gateway embedder critic scorer)

for service in "${services[@]}"; do
  in_namespace rollout status "deployment/$service" --timeout "$wait_for" >/dev/null ||
    fault "$service is not ready: kubectl -n $namespace describe pods -l app.kubernetes.io/name=$service"
  restarts=$(in_namespace get pods -l "app.kubernetes.io/name=$service" \
    -o jsonpath='{range .items[*]}{.status.containerStatuses[0].restartCount}{"\n"}{end}' | sort -rn | head -n 1)
  [ "$restarts" = 0 ] || fault "$service restarted $restarts times: kubectl -n $namespace logs -l app.kubernetes.io/name=$service --previous"
done
ok "the pods of ${services[*]} are ready and none restarted"

for service in "${services[@]}"; do
  for name in "${health[$service]}" liveness; do
    in_namespace exec "deployment/$service" -- \
      python -m services.core.probe "127.0.0.1:${port[$service]}" "$name" >/dev/null ||
      fault "$service does not answer SERVING for the health name $name"
  done
done
ok "each answers SERVING for its own health name and for liveness"

for service in embedder critic scorer; do
  claim=$(in_namespace get deployment "$service" -o jsonpath='{.spec.template.spec.containers[0].resources.limits}')
  case $claim in
    *nvidia.com/*)
      seen=$(in_namespace exec "deployment/$service" -- python -c 'import torch; print(torch.cuda.device_count())')
      [ "$seen" = 1 ] || fault "$service claims one GPU or slice and sees $seen"
      ok "$service sees exactly one GPU"
      ;;
    *) ok "$service claims no GPU" ;;
  esac
done

if [ -z "$photo" ]; then
  echo "not checked: an analysis (name a photograph: deploy/verify/on-cluster.sh PHOTO)"
  exit 0
fi
log=$(mktemp)
kubectl --namespace "$namespace" port-forward service/gateway "$local_port:50050" >"$log" 2>&1 &
forward=$!
trap 'kill "$forward" 2>/dev/null || true; rm -f "$log"' EXIT
for _ in $(seq 100); do
  grep -q "Forwarding from" "$log" && break
  kill -0 "$forward" 2>/dev/null || fault "port-forward to the gateway ended: $(cat "$log")"
  sleep 0.1
done
mondrian analyze "$photo" --advisor "$advisor" --mode combined --address "127.0.0.1:$local_port" ||
  fault "the analysis failed"
ok "one combined analysis through the gateway"
