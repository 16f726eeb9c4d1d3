"""The status page in Chromium: what people see, on a real receiver and a real API server.

With KEYTURN_PICTURES=1 the tests write the pictures of docs/status-page.md. KEYTURN_PAGE_BINDINGS is the number of
bindings in the long list.
"""

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, FloatRect, Page, expect

from keyturn_local.bench.stub_aws import CANARY
from keyturn_local.paths import ROOT
from support.deliveries import notification
from support.fault_env import FaultEnv
from support.manifests import env_from, secret, workload
from support.page_client import PageClient
from support.wait import eventually

PICTURES = ROOT / "docs" / "pictures"
WIDE, PHONE = {"width": 1120, "height": 900}, {"width": 360, "height": 740}
SECONDS = 30_000  # 30 s, in Playwright's unit, which is milliseconds
MANY = int(os.environ.get("KEYTURN_PAGE_BINDINGS", "2000"))


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Yield a function that opens a page. At the end, fail if a page wrote an error to the console."""
    errors: list[str] = []
    pages: list[Page] = []

    def new(url: str, **options: Any) -> Page:
        page = browser.new_page(**{"viewport": WIDE, **options})
        page.set_default_timeout(SECONDS)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
        page.goto(url)
        pages.append(page)
        return page

    yield new
    for page in pages:
        page.close()
    # The browser itself reports requests that failed while the receiver was down.
    assert [each for each in errors if "Failed to load resource" not in each] == []


class Shop:
    """Two namespaces with three Secrets that are filled from AWS secrets. Tests add workloads and broken Secrets."""

    def __init__(self, env: FaultEnv) -> None:
        self.env = env
        self.receiver = env.receiver(KEYTURN_STATUS_PAGE_CLUSTER="blue")
        self.url = self.receiver.page_url
        namespaces = ["shop", "billing"]
        # The tests of the chart's recipes delete a namespace with the same name, and do not wait.
        names = ("get", "namespace", *namespaces, "--ignore-not-found", "-o", "name")
        eventually(lambda: not env.cluster.kubectl(*names), 60)
        env.create_objects(
            *(
                {
                    "apiVersion": "v1",
                    "kind": "Namespace",
                    "metadata": {"name": each, "annotations": {"keyturn.dev/allow-secrets": f"{each}/*"}},
                }
                for each in namespaces
            )
        )
        self.arns = {name: self.create(name) for name in ("shop/db", "shop/cache", "billing/stripe")}

    def create(self, name: str) -> str:
        """Create an AWS secret, and a Secret that is filled from it."""
        namespace, _, short = name.partition("/")
        value = f'{{"username": "u", "password": "{self.env.new_value("first")}", "host": "h"}}'
        made = self.env.client.create_secret(Name=name, SecretString=value)
        data = {"keyturn.dev/data": "PGPASSWORD: password\nPGUSER: username"} if short == "db" else {}
        self.env.cluster.create([secret(namespace, short, name, **data)])
        return str(made["ARN"])

    def rotate(self, name: str = "shop/db") -> None:
        """Rotate an AWS secret, and deliver the notification."""
        value = f'{{"username": "u", "password": "{self.env.new_value("next")}", "host": "h"}}'
        version = self.env.client.put_secret_value(SecretId=name, SecretString=value)["VersionId"]
        moved = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        self.env.send_until_accepted(replace(notification(self.arns[name], version), time=moved))

    def deploy(self, secret_name: str, name: str, replicas: int, seconds: int = 1, namespace: str = "shop") -> None:
        """Create a Deployment whose pods take some seconds to become available, and wait for its baseline."""
        made = workload(namespace, name, env_from(secret_name))
        made["spec"] |= {"replicas": replicas, "minReadySeconds": seconds}
        self.env.cluster.create([made])
        mark = f"{{.metadata.annotations.revision\\.keyturn\\.dev/{secret_name}}}"
        eventually(
            lambda: self.env.cluster.kubectl("get", "deployment", name, "-n", namespace, "-o", f"jsonpath={mark}"), 60
        )


@pytest.fixture
def shop(env: FaultEnv) -> Iterator[Shop]:
    made = Shop(env)
    eventually(lambda: PageClient(made.url).get("/v1/status")["counts"]["ok"] == 3, 60)
    yield made
    for name in made.arns:
        env.client.delete_secret(SecretId=name, ForceDeleteWithoutRecovery=True)
    for namespace in ("shop", "billing"):
        env.cluster.kubectl("delete", "namespace", namespace, "--wait=true", "--timeout=60s")


def picture(page: Page, name: str, height: int = 0) -> None:
    """Write a picture for the documentation, if asked to."""
    if os.environ.get("KEYTURN_PICTURES"):
        PICTURES.mkdir(exist_ok=True)
        size = page.viewport_size or WIDE
        clip: FloatRect = {"x": 0, "y": 0, "width": size["width"], "height": height or size["height"]}
        page.screenshot(path=PICTURES / f"{name}.png", clip=clip)


def accessible(page: Page) -> None:
    """Check a page with axe-core: https://github.com/dequelabs/axe-core/blob/develop/doc/rule-descriptions.md"""
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


def test_first_screen_live_rotation_and_details(shop: Shop, open_page: Callable[..., Page]) -> None:
    shop.deploy("db", "web", 2)
    shop.deploy("db", "worker", 1)
    for _ in range(3):
        shop.rotate()
        eventually(lambda: not any(each["open"] for each in PageClient(shop.url).get("/v1/status")["rotations"]), 90)
    shop.rotate("billing/stripe")
    shop.env.cluster.create([secret("shop", "typo", "shop/nowhere")])
    page = open_page(shop.url)
    expect(page.get_by_role("status")).to_have_text("live")
    expect(page.locator("#attention")).to_contain_text("SourceNotFound")
    expect(page.locator("#rotations tbody tr")).to_have_count(4)
    expect(page.locator("#plot svg")).to_be_visible()
    expect(page.locator("#bindings tbody tr")).to_have_count(4)
    accessible(page)
    picture(page, "first-screen")

    shop.deploy("db", "checkout", 4, seconds=2)
    shop.rotate()
    now = page.locator("#now")
    expect(now).to_contain_text("Deployment checkout")
    expect(now).to_contain_text("of 4 pods")
    expect(now.get_by_text(re.compile("[1-3] of 4 pods"))).to_be_visible()
    accessible(page)
    picture(page, "live-rotation")
    expect(now).to_contain_text("No rotation is running.", timeout=2 * SECONDS)
    expect(page.locator("#live")).to_contain_text("shop/db live after")

    page.locator("#bindings").get_by_role("link", name="shop/db", exact=True).click()
    expect(page.get_by_role("heading", level=2, name="shop/db")).to_be_focused()
    detail = page.locator("#detail")
    expect(detail).to_contain_text("label moved")
    expect(detail).to_contain_text("Deployment checkout live: 4 pods")
    expect(detail).to_contain_text("keyturn trace shop/db")
    expect(detail).to_contain_text("PGPASSWORD")
    assert "host" not in detail.inner_text()  # the binding does not name this key
    accessible(page)
    picture(page, "binding")
    assert CANARY not in page.content()
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy keyturn trace shop/db").click()
    expect(detail).to_contain_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == "keyturn trace shop/db"
    page.get_by_role("link", name="all bindings").click()
    expect(page.locator("#bindings").get_by_role("link", name="shop/db", exact=True)).to_be_focused()


def test_dark_phone_and_keyboard(shop: Shop, open_page: Callable[..., Page]) -> None:
    shop.deploy("db", "web", 2)
    shop.rotate()
    eventually(lambda: PageClient(shop.url).get("/v1/status")["rotations"][0]["liveAt"], 60)
    shop.env.cluster.create([secret("billing", "typo", "billing/nowhere")])
    dark = open_page(shop.url, color_scheme="dark")
    expect(dark.locator("#attention")).to_contain_text("SourceNotFound")
    accessible(dark)
    picture(dark, "dark")
    dark.keyboard.press("Tab")
    expect(dark.get_by_role("link", name="Skip to content")).to_be_focused()
    accessible(dark)
    dark.goto(f"{shop.url}/#/billing/typo")
    expect(dark.locator("#detail")).to_contain_text("shop/nowhere".replace("shop", "billing"))
    accessible(dark)

    phone = open_page(shop.url, viewport=PHONE, has_touch=True, is_mobile=True, device_scale_factor=1.5)
    expect(phone.locator("#rotations tbody tr")).to_have_count(1)
    cells = dark.locator("#rotations tbody td.wide").all_text_contents()
    assert ("1 of 1 Secret" in cells, "1 workload" in cells) == (True, True)
    assert phone.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    accessible(phone)
    picture(phone, "phone")
    phone.goto(f"{shop.url}/#/shop/db")
    expect(phone.locator("#detail")).to_contain_text("Deployment web")
    assert phone.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


def test_page_says_that_it_reconnects_and_that_the_receiver_restarted(
    shop: Shop, open_page: Callable[..., Page]
) -> None:
    shop.rotate()
    page = open_page(shop.url)
    expect(page.locator("#rotations tbody tr")).to_have_count(1)
    shop.receiver.kill()
    expect(page.get_by_role("status")).to_have_text("reconnecting")
    expect(page.locator("#notice")).to_contain_text("No answer since")
    picture(page, "reconnecting", height=420)
    shop.receiver.start()
    expect(page.get_by_role("status")).to_have_text("live")
    expect(page.locator("#notice")).to_contain_text("The receiver has restarted")
    expect(page.locator("#rotations")).to_contain_text("None since this replica started.")


def test_ninth_page_is_refreshed_and_says_why(shop: Shop, open_page: Callable[..., Page]) -> None:
    client = PageClient(shop.url)
    with suppress(ExceptionGroup):
        streams = [client.stream() for _ in range(8)]
        for each in streams:
            assert each.__enter__().status == 200
        page = open_page(shop.url)
        expect(page.locator("#notice")).to_contain_text("Eight pages are open already")
        expect(page.get_by_role("status")).to_have_text("refreshed every 5 s")
        expect(page.locator("#counts")).to_contain_text("bindings")
        accessible(page)
        for each in streams:
            each.__exit__(None, None, None)


def test_names_of_strangers_are_text(shop: Shop, open_page: Callable[..., Page]) -> None:
    markup = "<img src=x onerror=document.title=1>"
    shop.env.cluster.create([secret("shop", "markup", markup)])
    page = open_page(shop.url)
    expect(page.locator("#attention")).to_contain_text("markup")
    expect(page.locator("#bindings")).to_contain_text(markup)
    assert page.locator("main img").count() == 0
    page.goto(f"{shop.url}/#/shop/markup")
    expect(page.locator("#detail")).to_contain_text(markup)
    page.goto(f"{shop.url}/#/%3Cb%3E/%E2%80%AE")
    expect(page.locator("#detail")).to_contain_text("no Secret of this name is bound")


def test_list_of_many_bindings_is_searched_and_turned(env: FaultEnv, open_page: Callable[..., Page]) -> None:
    receiver = env.receiver()
    for start in range(0, MANY, 1000):
        names = [f"app-{n:05}" for n in range(start, min(start + 1000, MANY))]
        env.cluster.create([secret(env.namespace, name, f"{env.namespace}/none") for name in names])
    client = PageClient(receiver.page_url)
    eventually(lambda: client.get("/v1/status")["counts"]["bindings"] == MANY, 60 + MANY / 20)
    page = open_page(receiver.page_url)
    expect(page.locator("#bindings")).to_contain_text(f"1-50 of {MANY}")
    page.get_by_role("button", name="Next").click()
    expect(page.locator("#bindings")).to_contain_text(f"51-100 of {MANY}")
    expect(page.get_by_role("button", name="Next")).to_be_focused()
    began = time.monotonic()
    page.get_by_label("Search").fill("app-01234")
    expect(page.locator("#bindings tbody tr")).to_have_count(1)
    search = time.monotonic() - began
    page.get_by_label("Search").fill("")
    expect(page.locator("#bindings")).to_contain_text(f"1-50 of {MANY}")
    picture(page, "many-bindings", height=420)
    began = time.monotonic()
    page.reload()
    expect(page.locator("#bindings tbody tr")).to_have_count(50)
    expect(page.locator("#counts")).to_contain_text(str(MANY))
    screen = time.monotonic() - began
    print(f"\n{MANY} bindings: first screen {screen:.2f} s, search {search:.2f} s")
    assert (screen < 5, search < 5) == (True, True)
