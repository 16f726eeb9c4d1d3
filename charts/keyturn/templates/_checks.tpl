{{/* Rejects combinations of values that values.schema.json cannot. Each message names a value and the remedy. */}}
{{- define "keyturn.checks" -}}
{{- with .Values }}
{{- if not (or .signingKey.secretId .signingKey.publicKeys .signingKey.existingSecret.name) }}
{{- fail "signingKey: there is no key to verify deliveries with: set signingKey.secretId (the stack's output SigningKeySecretId), signingKey.publicKeys or signingKey.existingSecret.name" }}
{{- end }}
{{- if and .aws.roleArn (not .serviceAccount.create) }}
{{- fail "aws.roleArn: it annotates only a ServiceAccount that the chart creates: set serviceAccount.create, or annotate your ServiceAccount with eks.amazonaws.com/role-arn" }}
{{- end }}
{{- if not (or .serviceAccount.create .serviceAccount.name) }}
{{- fail "serviceAccount.name: it is empty, and serviceAccount.create is false: name an existing ServiceAccount. With the namespace's default one, every pod that names none would have the receiver's rights" }}
{{- end }}
{{- if and .tls.certManager.enabled (not .tls.certManager.issuerRef.name) }}
{{- fail "tls.certManager.issuerRef.name: it is empty: set the name of the issuer that signs the certificate" }}
{{- end }}
{{- if and .nlb.enabled (not (or .nlb.certificateArn .tls.secretName .tls.certManager.enabled)) }}
{{- fail "nlb.enabled: the notifier delivers only over TLS: set nlb.certificateArn, tls.secretName or tls.certManager.enabled" }}
{{- end }}
{{- if and .nlb.enabled (ne .service.type "ClusterIP") }}
{{- fail "nlb.enabled: it makes the Service a LoadBalancer: leave service.type at ClusterIP, or set nlb.enabled to false" }}
{{- end }}
{{- if and .nlb.certificateArn (not .nlb.enabled) }}
{{- fail "nlb.certificateArn: there is no load balancer to use it: set nlb.enabled" }}
{{- end }}
{{- if and .ingress.enabled (not .ingress.host) }}
{{- fail "ingress.host: it is empty: set the host name in the stack's ReceiverUrls" }}
{{- end }}
{{- if and (or .service.loadBalancerClass .service.loadBalancerSourceRanges) (not .nlb.enabled) (ne .service.type "LoadBalancer") }}
{{- fail "service.loadBalancerClass, service.loadBalancerSourceRanges: there is no load balancer to use them: set nlb.enabled, or set service.type to LoadBalancer" }}
{{- end }}
{{- $set := dict }}
{{- range concat (include "keyturn.keysEnv" $ | fromYamlArray) (include "keyturn.settingsEnv" $ | fromYamlArray) .extraEnv }}
{{- if hasKey $set .name }}
{{- fail (printf "extraEnv: %s is set twice: set the chart's value for it instead, or name it only once" .name) }}
{{- end }}
{{- $_ := set $set .name true }}
{{- end }}
{{- range .extraVolumes }}
{{- if has .name (list "tls" "certificate" "signing-key") }}
{{- fail (printf "extraVolumes: %s is the name of one of the chart's own volumes: set another name" .name) }}
{{- end }}
{{- end }}
{{- if and .traces.endpoint (not .traces.enabled) }}
{{- fail "traces.endpoint: no traces are sent: set traces.enabled, too" }}
{{- end }}
{{- if and .priorityClass.create .priorityClassName }}
{{- fail "priorityClassName: the chart creates its own PriorityClass: leave priorityClassName empty, or set priorityClass.create to false" }}
{{- end }}
{{- if and .metrics.serviceMonitor.enabled .metrics.podMonitor.enabled }}
{{- fail "metrics.podMonitor.enabled: together with metrics.serviceMonitor.enabled, every series would be scraped twice: leave one of them disabled" }}
{{- end }}
{{- if and .networkPolicy.enabled (not .networkPolicy.operationsFrom) (or .metrics.serviceMonitor.enabled .metrics.podMonitor.enabled) }}
{{- fail "networkPolicy.operationsFrom: the NetworkPolicy blocks Prometheus from the metrics: name its namespace, for example [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: monitoring}}}]" }}
{{- end }}
{{- end }}
{{- end }}
