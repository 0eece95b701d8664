#!/bin/sh
# Makes placements and topics through a coordinator, as M3's how-to does; what exists is left alone.
# Environment: COORDINATOR (http://host:7201), ENVIRONMENT, AGGREGATORS (ID=HOST:PORT …), INGEST (HOST:PORT of the coordinator), SHARDS.
set -eu
call() {
    curl -sSf -o /dev/null -H "Cluster-Environment-Name: $ENVIRONMENT" -H 'Content-Type: application/json' "$@"
}
exists() {
    call "$COORDINATOR$1" -H "Topic-Name: ${2:-none}" 2>/dev/null
}
until curl -sSf -o /dev/null "$COORDINATOR/-/healthy"; do
    echo "waiting for $COORDINATOR"
    sleep 2
done
placement=/api/v1/services/m3aggregator/placement
if ! exists $placement; then
    instances=
    group=b
    for one in $AGGREGATORS; do
        endpoint=${one#*=}
        # Two groups in turn: each pair has one of both.
        [ $group = a ] && group=b || group=a
        instances="$instances${instances:+,}{\"id\":\"${one%%=*}\",\"isolation_group\":\"group-$group\",\"zone\":\"embedded\",\"weight\":100,\"endpoint\":\"$endpoint\",\"hostname\":\"${endpoint%:*}\",\"port\":${endpoint##*:}}"
    done
    call -X POST "$COORDINATOR$placement/init" \
        -d "{\"num_shards\":$SHARDS,\"replication_factor\":2,\"instances\":[$instances]}"
    echo "made the placement of m3aggregator: $AGGREGATORS"
fi
placement=/api/v1/services/m3coordinator/placement
if ! exists $placement; then
    call -X POST "$COORDINATOR$placement/init" \
        -d "{\"instances\":[{\"id\":\"m3coordinator\",\"zone\":\"embedded\",\"endpoint\":\"$INGEST\",\"hostname\":\"${INGEST%:*}\",\"port\":${INGEST##*:}}]}"
    echo "made the placement of m3coordinator: $INGEST"
fi
topic() {
    if ! exists /api/v1/topic "$1"; then
        call -X POST "$COORDINATOR/api/v1/topic/init" -H "Topic-Name: $1" -d "{\"numberOfShards\":$SHARDS}"
        call -X POST "$COORDINATOR/api/v1/topic" -H "Topic-Name: $1" \
            -d "{\"consumerService\":{\"serviceId\":{\"name\":\"$2\",\"environment\":\"$ENVIRONMENT\",\"zone\":\"embedded\"},\"consumptionType\":\"$3\",\"messageTtlNanos\":\"300000000000\"}}"
        echo "made the topic $1 for $2"
    fi
}
topic aggregator_ingest m3aggregator REPLICATED
topic aggregated_metrics m3coordinator SHARED
