"""A till: sells, cancels, gives cards to new customers. It is the application, and it knows nothing of Subak."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial

from sqlalchemy.engine import URL

from services.cli.demo.company import CUSTOMERS, PRODUCTS, Application
from services.kernel.dialects import dialect_for

KEYS_PER_TILL = 1_000_000
"""Each till gives customers numbers of its own range, so that no two ever give the same."""

RECEIPTS = 1000
"""A till remembers so many of its latest receipts, to cancel one now and then."""

LOST = "connection"
"""The code of an error after which a connection is of no use any more."""

REMARKS = (None, None, None, "gift 🎁", "it's for 'Bob'", "ohne Tüte", "領収書", "50% \\ off")


class Till(threading.Thread):
    """Sells until `closing` is set, with a pause of `pause` seconds between two transactions at most.

    `errors` holds what the database refused: the application must never notice Subak, so it stays empty. `deadlocks`: how often
    the database ended a transaction for that reason, and it was made again. `slowest`: the seconds that the longest transaction took.
    """

    def __init__(self, url: URL, shop: str, number: int, pause: float, closing: threading.Event) -> None:
        super().__init__(name=f"till-{number}", daemon=True)
        self._url = url
        self.shop = shop
        self._number = number
        self._pause = pause
        self._closing = closing
        self._draw = random.Random(number)
        self._receipts: list[str] = []
        self._customers = list(range(1, len(CUSTOMERS) + 1))
        self._count = 0
        self.transactions = 0
        self.deadlocks = 0
        self.slowest = 0.0
        self.errors: list[str] = []

    def run(self) -> None:
        application = Application(self._url)
        self._serve(application)
        application.close()

    def _serve(self, application: Application) -> None:
        """Until the shop closes, or the connection is lost."""
        acts: list[Callable[[Application], None]] = [self._sell, self._cancel, self._enrol, self._photograph]
        while not self._closing.wait(self._draw.uniform(0, self._pause)):
            (act,) = self._draw.choices(acts, weights=(85, 6, 8, 1))
            try:
                began = time.monotonic()
                self.deadlocks += application.make(partial(act, application))
                self.transactions += 1
                self.slowest = max(self.slowest, time.monotonic() - began)
            except Exception as error:
                self._refused(error)
                if dialect_for(self._url).classify(error).code == LOST:
                    return

    def _refused(self, error: Exception) -> None:
        self.errors.append(f"{self.shop}: {error}")

    def _go_on(self, application: Application) -> None:
        """Where this till stood when it was switched off: no number is given twice."""
        ((receipt,),) = application.run("last_receipt", f"{self.shop}-{self._number}-%")
        first = self._number * KEYS_PER_TILL
        ((customer,),) = application.run("last_customer", first, first + KEYS_PER_TILL - 1)
        if receipt:
            self._count = int(str(receipt).rpartition("-")[2])
        if customer:
            self._customers += range(first + len(self._customers), int(customer) + 1)

    def _sell(self, application: Application) -> None:
        self._count += 1
        receipt = f"{self.shop}-{self._number}-{self._count:06}"
        customer = self._draw.choice([None, *self._customers])
        sold_at = datetime.now(UTC).replace(tzinfo=None).isoformat(sep=" ", timespec="microseconds")
        application.run("open_sale", receipt, self.shop, customer, sold_at, self._draw.choice(REMARKS))
        total = Decimal(0)
        bought = self._draw.sample(range(1, len(PRODUCTS) + 1), self._draw.randint(1, 4))
        for line, product in enumerate(sorted(bought), start=1):
            ((price,),) = application.run("price_of", product)
            quantity = self._draw.randint(1, 5)
            application.run("add_line", receipt, line, product, quantity, str(price))
            application.run("take_stock", quantity, self.shop, product)
            total += quantity * Decimal(str(price))
        application.run("close_sale", str(total), receipt)
        if customer and customer > KEYS_PER_TILL:  # a card of this till's own: points are not given twice at once
            application.run("give_points", int(total), customer)
        self._receipts = [*self._receipts[1 - RECEIPTS :], receipt]

    def _cancel(self, application: Application) -> None:
        if not self._receipts:
            return
        receipt = self._receipts.pop(self._draw.randrange(len(self._receipts)))
        for product, quantity in application.run("lines_of", receipt):
            application.run("take_stock", -quantity, self.shop, product)
        application.run("drop_lines", receipt)
        application.run("drop_sale", receipt)

    def _enrol(self, application: Application) -> None:
        customer = self._number * KEYS_PER_TILL + len(self._customers)
        name = f"{self._draw.choice(CUSTOMERS)} {customer}"
        application.run("add_customer", customer, name, f"customer{customer}@example.com", 0)
        self._customers.append(customer)

    def _photograph(self, application: Application) -> None:
        # Only goods that belong to this till, so that the conflicts are the ones made on purpose.
        product = 1 + self._number % len(PRODUCTS)
        application.run("set_photo", self._draw.randbytes(3000), product)


class Quarrel(threading.Thread):
    """The same product gets another price in every shop at once, time and again: conflicts on purpose."""

    def __init__(self, urls: Sequence[URL], pause: float, closing: threading.Event) -> None:
        super().__init__(name="quarrel", daemon=True)
        self._urls = urls
        self._pause = pause
        self._closing = closing
        self._draw = random.Random(0)
        self.deadlocks = 0
        self.errors: list[str] = []

    def run(self) -> None:
        applications = [Application(url) for url in self._urls]
        product = 0
        while not self._closing.wait(self._pause):
            product = product % len(PRODUCTS) + 1
            for application in applications:
                price = f"{self._draw.randint(100, 2000) / 100:.2f}"
                try:
                    self.deadlocks += application.make(partial(self._set, application, price, product))
                except Exception as error:
                    self.errors.append(f"price of {product}: {error}")
        for application in applications:
            application.close()

    def _set(self, application: Application, price: str, product: int) -> None:
        application.run("set_price", price, product)
