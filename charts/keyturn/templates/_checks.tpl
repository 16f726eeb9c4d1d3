{{/* Rejects combinations of values that values.schema.json cannot. Each message names a value and the remedy. */}}
{{- define "keyturn.checks" -}}
{{- with .Values }}
{{- if .deliveries.enabled }}
{{- if not (or .signingKey.secretId .signingKey.publicKeys .signingKey.existingSecret.name) }}
{{- fail "signingKey: there is no key to verify deliveries with: set signingKey.secretId (the stack's output SigningKeySecretId), signingKey.publicKeys or signingKey.existingSecret.name; or, to begin without a stack, set deliveries.enabled to false" }}
{{- end }}
{{- else }}
{{- range $name, $used := dict
  "signingKey.secretId" .signingKey.secretId
  "signingKey.publicKeys" .signingKey.publicKeys
  "signingKey.existingSecret.name" .signingKey.existingSecret.name
  "ingress.enabled" .ingress.enabled
  "httpRoute.enabled" .httpRoute.enabled
  "nlb.enabled" .nlb.enabled
  "service.type" (ne .service.type "ClusterIP")
  "tls.secretName" .tls.secretName
  "tls.certManager.enabled" .tls.certManager.enabled }}
{{- if $used }}
{{- fail (printf "deliveries.enabled: it is false, and %s is of use for deliveries alone: set deliveries.enabled to true, or leave %s at its default" $name $name) }}
{{- end }}
{{- end }}
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
{{- if and .httpRoute.enabled (not .httpRoute.parentRefs) }}
{{- fail "httpRoute.parentRefs: it is empty, so no Gateway serves the route: name yours, for example [{name: public, namespace: gateways, sectionName: https}]" }}
{{- end }}
{{- if and .httpRoute.enabled (not .httpRoute.hostnames) }}
{{- fail "httpRoute.hostnames: it is empty: set the host name in the stack's ReceiverUrls" }}
{{- end }}
{{- /* Here and not in the schema, whose message would quote the password. */}}
{{- if contains "@" .proxy.url }}
{{- fail "proxy.url: it holds credentials, which everybody who may see the pods could read: leave it empty, and name a Secret with the keys HTTPS_PROXY and NO_PROXY in extraEnvFrom" }}
{{- end }}
{{- if and .proxy.noProxy (not .proxy.url) }}
{{- fail "proxy.noProxy: there is no proxy: set proxy.url, too" }}
{{- end }}
{{- range .proxy.noProxy }}
{{- if and (contains "/" .) (not (include "keyturn.isRange" .)) }}
{{- fail (printf "proxy.noProxy: %s is no address range: set it as in 10.0.0.0/8 or fd00::/8, without a scheme or a path" .) }}
{{- end }}
{{- end }}
{{- if and .aws.fips .aws.endpointUrl }}
{{- fail "aws.fips: it chooses the endpoint, and aws.endpointUrl names another: set only one of the two" }}
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

{{/* Whether a text is an address range in CIDR notation: "true" or "". */}}
{{- define "keyturn.isRange" -}}
{{- $octet := "(25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])" }}
{{- if regexMatch (printf "^(%s[.]){3}%s/(3[0-2]|[12]?[0-9])$" $octet $octet) . }}true
{{- else if regexMatch "^[0-9a-fA-F:]*:[0-9a-fA-F:.]*/(12[0-8]|1[01][0-9]|[1-9]?[0-9])$" . }}true
{{- end }}
{{- end }}
