{{/* What no schema can say: values that do not go together. Each message names the value and what to do. */}}
{{- define "keyturn.checks" -}}
{{- with .Values }}
{{- if not (or .signingKey.secretId .signingKey.publicKeys .signingKey.existingSecret.name) }}
{{- fail "signingKey: nothing to verify deliveries with: set signingKey.secretId (the stack's output SigningKeySecretId), signingKey.publicKeys, or signingKey.existingSecret.name" }}
{{- end }}
{{- if and .aws.roleArn (not .serviceAccount.create) }}
{{- fail "aws.roleArn: it goes onto a ServiceAccount that the chart makes: set serviceAccount.create, or annotate yours with eks.amazonaws.com/role-arn" }}
{{- end }}
{{- if not (or .serviceAccount.create .serviceAccount.name) }}
{{- fail "serviceAccount.name: name the one to use: without it every pod of the namespace that names none would get the receiver's rights" }}
{{- end }}
{{- if and .tls.certManager.enabled (not .tls.certManager.issuerRef.name) }}
{{- fail "tls.certManager.issuerRef.name: name the issuer that makes the certificate" }}
{{- end }}
{{- if and .nlb.enabled (not (or .nlb.certificateArn .tls.secretName .tls.certManager.enabled)) }}
{{- fail "nlb.enabled: the notifier delivers over TLS alone: set nlb.certificateArn, tls.secretName or tls.certManager.enabled" }}
{{- end }}
{{- if and .nlb.enabled (ne .service.type "ClusterIP") }}
{{- fail "nlb.enabled: it makes the Service a LoadBalancer by itself: leave service.type as it is, or switch nlb.enabled off" }}
{{- end }}
{{- if and .nlb.certificateArn (not .nlb.enabled) }}
{{- fail "nlb.certificateArn: there is no load balancer for it: set nlb.enabled" }}
{{- end }}
{{- if and .ingress.enabled (not .ingress.host) }}
{{- fail "ingress.host: name the host that the stack's ReceiverUrls leads to" }}
{{- end }}
{{- if and (or .service.loadBalancerClass .service.loadBalancerSourceRanges) (not .nlb.enabled) (ne .service.type "LoadBalancer") }}
{{- fail "service.loadBalancerClass, service.loadBalancerSourceRanges: there is no load balancer for them: set nlb.enabled, or service.type to LoadBalancer" }}
{{- end }}
{{- $set := dict }}
{{- range concat (include "keyturn.keysEnv" $ | fromYamlArray) (include "keyturn.settingsEnv" $ | fromYamlArray) .extraEnv }}
{{- if hasKey $set .name }}
{{- fail (printf "extraEnv: %s is there already: set the value that the chart has for it, or name it once" .name) }}
{{- end }}
{{- $_ := set $set .name true }}
{{- end }}
{{- range .extraVolumes }}
{{- if has .name (list "tls" "certificate" "signing-key") }}
{{- fail (printf "extraVolumes: %s is the name of a volume of the chart's own: set another" .name) }}
{{- end }}
{{- end }}
{{- if and .traces.endpoint (not .traces.enabled) }}
{{- fail "traces.endpoint: no traces are sent: set traces.enabled" }}
{{- end }}
{{- if and .priorityClass.create .priorityClassName }}
{{- fail "priorityClassName: the chart makes a PriorityClass of its own: leave it empty, or switch priorityClass.create off" }}
{{- end }}
{{- if and .metrics.serviceMonitor.enabled .metrics.podMonitor.enabled }}
{{- fail "metrics.podMonitor.enabled: with metrics.serviceMonitor.enabled everything would be counted twice: leave one of them off" }}
{{- end }}
{{- if and .networkPolicy.enabled (not .networkPolicy.operationsFrom) (or .metrics.serviceMonitor.enabled .metrics.podMonitor.enabled) }}
{{- fail "networkPolicy.operationsFrom: Prometheus may not reach the metrics: name its namespace, such as [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: monitoring}}}]" }}
{{- end }}
{{- end }}
{{- end }}
