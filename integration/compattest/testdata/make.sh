#!/usr/bin/env bash
# Makes the stores and the bundle that a version of the programs leaves. golden-0.1 was made
# with those of 0.1 (commit 27ea76e).
#
# usage: make.sh BIN OUT     BIN has ota-apply, ota-guardian and ota-bundle
set -eu
bin=$(realpath "$1") out=$(realpath -m "$2")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
mkdir -p "$out" etc/keys
export OTA_CONFIG=$work/etc/ota.toml PATH=$bin:$PATH
cat >check <<SH
#!/bin/sh
[ ! -e $work/sick ]
SH
chmod +x check
printf 'root = "%s"\nmodel = "x1"\nkeep = 2\nreserve = 0\nrun = "%s"\n[report]\nurl = ""\n[trial]\ndeadline = "2s"\nstable = "50ms"\n[[check]]\nname = "app is well"\nscript = "%s"\n' \
    "$work/versions" "$work/run" "$work/check" >etc/ota.toml
ota-bundle keygen --no-password k >/dev/null
cp k.pub etc/keys
cp k.pub "$out"
for v in 1.0.0 1.1.0 1.2.0 1.3.0; do
    mkdir -p "tree/bin" tree/share
    printf '#!/bin/sh\necho %s\n' $v >tree/bin/app
    chmod +x tree/bin/app
    echo "the same in all versions" >tree/share/data
    ln -sf bin/app tree/app
    ota-bundle create --dir tree --version $v --model x1 --key k.key --release "$(echo $v | cut -c 3)1" -o "$v.ota" >/dev/null
done
cp 1.3.0.ota "$out"
save() { tar --owner=0 --group=0 -C versions -czf "$out/$1.tar.gz" .; echo "$1: $(ota-apply status --json | tr -d '\n' | cut -c 1-60)"; }

ota-apply install 1.0.0.ota >/dev/null
ota-guardian confirm
ota-guardian factory create >/dev/null
ota-apply install 1.1.0.ota >/dev/null
ota-guardian confirm
save confirmed
ota-apply install 1.2.0.ota >/dev/null
save trial
touch sick
ota-guardian confirm || [ $? = 8 ]
save fallback
ota-guardian confirm || [ $? = 9 ]
ota-guardian confirm || [ $? = 9 ]
save hold
rm -rf sick versions run
mkdir -p versions/v1.0.0/bin versions/v1.1.0/bin
echo 1.0.0 >versions/v1.0.0/bin/app
echo 1.1.0 >versions/v1.1.0/bin/app
ln -s v1.1.0 versions/current
ln -s v1.0.0 versions/factory
ota-guardian adopt >/dev/null
save adopted
