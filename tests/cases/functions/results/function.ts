// Anything that JSON can say is a result; undefined is none.
export default (event: { data: string }) => {
  switch (event.data) {
    case "null":
      return null;
    case "undefined":
      return undefined;
    case "date":
      return new Date(0);
    case "text":
      return "a \"text\"\nwith lines";
    case "later":
      return { then: (resolve: (value: unknown) => void) => resolve([1, { a: undefined, b: NaN }]) };
    default:
      throw new Error(`no ${event.data}`);
  }
};
