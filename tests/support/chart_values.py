"""Sets of chart values that change every value of values.yaml at least once, and a dry run of rendered objects."""

import json
import subprocess
from collections.abc import Iterable
from functools import reduce
from typing import Any

from keyturn_local.kubernetes.chart import SOME_KEY
from keyturn_local.kubernetes.cluster import Cluster

Values = dict[str, Any]

SERVED = ["team-a", "team-b"]
PEER = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}

# Together, the sets below change every value of values.yaml at least once; integration/test_chart_renderings.py checks
# this. The sets in this dictionary can be combined.
COMBINABLE: dict[str, Values] = {
    "replicas": {"replicas": 3},
    "image": {
        "image": {"repository": "images.example.com/keyturn/receiver", "tag": "1.2.3", "pullPolicy": "Always"},
        "imagePullSecrets": [{"name": "pull"}],
    },
    "image by its digest": {"image": {"digest": f"sha256:{'0' * 64}", "pullPolicy": "Never"}},
    "another name": {"nameOverride": "turn"},
    "labels of everything": {"commonLabels": {"example.com/team": "platform"}},
    "AWS": {
        "aws": {
            "region": "eu-central-1",
            "regions": ["eu-west-1", "eu-central-2"],
            "roleArn": "arn:aws:iam::123456789012:role/keyturn",
            "endpointUrl": "https://vpce-1.secretsmanager.eu-central-1.vpce.amazonaws.com",
        }
    },
    "proxy": {
        "proxy": {"url": "http://proxy.example.com:3128", "noProxy": ["10.0.0.0/8", "fd00::/8", ".example.com"]},
    },
    "ServiceAccount": {"serviceAccount": {"name": "turner", "annotations": {"example.com/note": "one of ours"}}},
    "signing keys of each kind": {
        "signingKey": {
            "secretId": "keyturn/signing-key",
            "publicKeys": [f"whpk_{'A' * 43}=", f"whpk_{'B' * 43}="],
            "existingSecret": {"name": "signing-keys", "key": "keys"},
            "intervalSeconds": 30,
        }
    },
    "policy": {"policy": {"default": "allow"}},
    "few namespaces": {"namespaces": SERVED},
    "tenant roles": {"tenantRoles": {"enabled": True}},
    "deletions": {"deletions": {"enabled": True}},
    "restarts": {"rollouts": {"default": "disabled", "reloader": "running", "reportReaders": False}},
    "ways of restarts": {"rollouts": {"argoRollouts": True, "evict": True, "watchSecrets": False}},
    "pace": {"rollouts": {"maxUnfinished": {"perSecret": 5, "perNamespace": 20, "perCluster": 100}}},
    "Reloader replaced": {"rollouts": {"reloader": "replaced"}},
    "poller": {"poller": {"intervalSeconds": 60, "mode": "describe"}},
    "heartbeats": {"heartbeats": {"silenceSeconds": 0}},
    "deliveries": {"deliveries": {"deadlineSeconds": 4, "maximum": 8, "maxConnections": 100}},
    "status page": {"statusPage": {"port": 9191, "clusterName": "blue"}},
    "no status page": {"statusPage": {"enabled": False}},
    "times": {"drainSeconds": 0, "stuckSeconds": 60, "watches": {"seconds": 30, "resyncSeconds": 600}},
    "work": {"work": {"concurrency": 8, "kubernetesRequests": 4, "awsThreads": 2}},
    "errors alone": {"logLevel": "ERROR"},
    "traces": {"traces": {"enabled": True, "endpoint": "http://collector.telemetry.svc:4318"}},
    "TLS by cert-manager": {
        "tls": {
            "certManager": {
                "enabled": True,
                "issuerRef": {"name": "internal", "kind": "Issuer", "group": "issuers.example.com"},
                "dnsNames": ["keyturn.example.com"],
            }
        }
    },
    "TLS": {"tls": {"secretName": "keyturn-certificate"}},
    "load balancer": {
        "nlb": {
            "enabled": True,
            "internal": False,
            "certificateArn": "arn:aws:acm:eu-central-1:123456789012:certificate/5d9e7a11-3c42-4e1b-9a55-0d6a4c1f2b37",
        },
        "service": {
            "port": 8443,
            "annotations": {"service.beta.kubernetes.io/aws-load-balancer-name": "keyturn"},
            "loadBalancerClass": "example.com/other",
            "loadBalancerSourceRanges": ["10.0.0.0/8", "fd00::/8"],
        },
    },
    "Ingress": {
        "ingress": {
            "enabled": True,
            "className": "alb",
            "annotations": {"alb.ingress.kubernetes.io/scheme": "internet-facing"},
            "host": "keyturn.example.com",
            "tlsSecretName": "keyturn-ingress",
        }
    },
    "HTTPRoute": {
        "httpRoute": {
            "enabled": True,
            "parentRefs": [{"name": "public", "namespace": "gateways", "sectionName": "https"}],
            "hostnames": ["keyturn.example.com"],
            "annotations": {"example.com/note": "one of ours"},
        }
    },
    "NetworkPolicy": {
        "networkPolicy": {
            "deliveriesFrom": [{"ipBlock": {"cidr": "10.0.0.0/8"}}],
            "operationsFrom": [PEER],
            "extraEgress": [
                {"ports": [{"port": 3128, "protocol": "TCP"}], "to": [{"ipBlock": {"cidr": "10.1.2.3/32"}}]}
            ],
        }
    },
    "ServiceMonitor": {
        "metrics": {"serviceMonitor": {"enabled": True, "interval": "1m", "labels": {"release": "prometheus"}}},
        "networkPolicy": {"operationsFrom": [PEER]},
    },
    "alerts": {
        "metrics": {
            "prometheusRule": {
                "enabled": True,
                "labels": {"release": "prometheus"},
                "runbookUrl": "https://wiki.example.com/keyturn",
            }
        }
    },
    "dashboard": {
        "metrics": {
            "dashboard": {
                "enabled": True,
                "labels": {"grafana_dashboard": "yes", "example.com/grafana": "main"},
                "annotations": {"grafana_folder": "Platform"},
            }
        }
    },
    "resources": {"resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "2", "memory": "512Mi"}}},
    "places": {
        "topologySpreadConstraints": [
            {
                "topologyKey": "example.com/rack",
                "maxSkew": 1,
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": {"app.kubernetes.io/component": "receiver"}},
            }
        ],
        "nodeSelector": {"example.com/pool": "platform"},
        "tolerations": [{"key": "dedicated", "operator": "Equal", "value": "platform", "effect": "NoSchedule"}],
        "affinity": {
            "nodeAffinity": {
                "preferredDuringSchedulingIgnoredDuringExecution": [
                    {"weight": 1, "preference": {"matchExpressions": [{"key": "spot", "operator": "DoesNotExist"}]}}
                ]
            }
        },
    },
    "PriorityClass": {"priorityClass": {"create": True, "value": -5}},
    "labels and annotations of the pods": {
        "podLabels": {"example.com/mesh": "off"},
        "podAnnotations": {"example.com/scrape": "false"},
    },
    "security contexts": {
        "podSecurityContext": {"runAsUser": 1000, "fsGroup": 1000},
        "securityContext": {"capabilities": {"add": ["NET_BIND_SERVICE"]}},
    },
    "more in the pods": {
        "extraEnv": [
            {"name": "AWS_CA_BUNDLE", "value": "/etc/ssl/ours/ca.crt"},
            {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
        ],
        "extraEnvFrom": [{"configMapRef": {"name": "proxy", "optional": True}}],
        "extraVolumes": [{"name": "authorities", "configMap": {"name": "authorities", "optional": True}}],
        "extraVolumeMounts": [{"name": "authorities", "mountPath": "/etc/ssl/ours", "readOnly": True}],
    },
    "more objects": {
        "extraObjects": [
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "{{ .Release.Name }}-one"}},
            'apiVersion: v1\nkind: ConfigMap\nmetadata: {name: {{ include "keyturn.fullname" . }}-two}\n',
        ]
    },
}
# These sets are used one at a time.
EXCLUSIVE: dict[str, Values] = {
    "defaults": {},
    "no replicas": {"replicas": 0},
    "another full name": {"fullnameOverride": "turnkey"},
    "ServiceAccount of somebody else": {"serviceAccount": {"create": False, "name": "theirs"}},
    "Ingress for pods that serve TLS": {
        "ingress": {"enabled": True, "className": "alb", "host": "keyturn.example.com"},
        "tls": {"secretName": "keyturn-certificate"},
    },
    "poller alone": {
        "deliveries": {"enabled": False},
        "signingKey": {"secretId": ""},
        "metrics": {"prometheusRule": {"enabled": True}},
    },
    "FIPS endpoints": {"aws": {"fips": True}},
    "public keys alone": {"signingKey": {"publicKeys": [f"whpk_{'A' * 43}="]}},
    "signing key in a Secret": {"signingKey": {"existingSecret": {"name": "signing-keys"}}},
    "few namespaces, all rights": {
        "namespaces": SERVED,
        "tenantRoles": {"enabled": True},
        "deletions": {"enabled": True},
    },
    "no rollouts": {"rollouts": {"enabled": False}},
    "no warnings": {"warnings": {"enabled": False}},
    "every word": {"logLevel": "DEBUG"},
    "warnings": {"logLevel": "WARNING"},
    "TLS by cert-manager, all by itself": {
        "tls": {"certManager": {"enabled": True, "issuerRef": {"name": "internal"}}}
    },
    "NodePort": {"service": {"type": "NodePort"}},
    "LoadBalancer": {"service": {"type": "LoadBalancer", "loadBalancerSourceRanges": ["10.0.0.0/8"]}},
    "load balancer before pods that serve TLS": {
        "nlb": {"enabled": True},
        "tls": {"secretName": "keyturn-certificate"},
    },
    "load balancer of EKS Auto Mode": {
        "nlb": {
            "enabled": True,
            "loadBalancerClass": "eks.amazonaws.com/nlb",
            "certificateArn": "arn:aws:acm:eu-central-1:123456789012:certificate/5d9e7a11-3c42-4e1b-9a55-0d6a4c1f2b37",
        },
    },
    "Ingress for any controller": {"ingress": {"enabled": True, "host": "keyturn.example.com"}},
    "PodMonitor": {
        "metrics": {"podMonitor": {"enabled": True, "interval": "15s", "labels": {"release": "prometheus"}}},
        "networkPolicy": {"operationsFrom": [PEER]},
    },
    "no NetworkPolicy": {"networkPolicy": {"enabled": False}, "metrics": {"serviceMonitor": {"enabled": True}}},
    "no PodDisruptionBudget": {"podDisruptionBudget": {"enabled": False}},
    "PriorityClass of the cluster": {"priorityClassName": "system-cluster-critical"},
    "no requests and limits": {"resources": None},
}


def merged(first: Values, second: Values) -> Values:
    """Return two sets of values merged as Helm merges them: maps are merged key by key, and any other value of the
    second set replaces that of the first."""
    both = {key: merged(first[key], second[key]) for key in first if _are_maps(first[key], second.get(key))}
    return {**first, **second, **both}


def _are_maps(*values: Any) -> bool:
    return all(isinstance(value, dict) for value in values)


EVERYTHING = reduce(merged, COMBINABLE.values())
# All combinable sets except "places", which requires labels on the nodes.
ANYWHERE = reduce(merged, (values for name, values in COMBINABLE.items() if name != "places"))
VARIANTS = {
    name: {**SOME_KEY, **values}
    for name, values in {**EXCLUSIVE, **COMBINABLE, "everything at once": EVERYTHING}.items()
}


def dry_run(cluster: Cluster, objects: Iterable[Any]) -> subprocess.CompletedProcess[str]:
    """Submit objects to the API server as a dry run. Its warnings and errors are in ``stderr`` of the result."""
    command = [*cluster.command, "create", "--dry-run=server", "--validate=strict", "-o", "name", "-f", "-"]
    # The objects are sent one by one. In a List, kubectl itself would check the fields of the items, and it cannot do
    # that for custom resources.
    stream = "\n".join(map(json.dumps, objects))
    return subprocess.run(command, input=stream, capture_output=True, text=True, timeout=60)
